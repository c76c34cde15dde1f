"""The command line: one file per group of commands, imported when it is asked for.

::

    main.py          the way in; what becomes of every error; exit codes
    commands.py      the lazy group of commands; usage.py  click's complaints in SAGE's words
    run.py           sage run; user_file.py  the user's Python file, executed
    files.py         files named on the command line, and those that were meant
    watching.py      a job from start to end on the terminal
    progress.py      plain lines while it runs; live.py  the table of a terminal
    figures.py       numbers, times and tables as text; report.py  how a run ended, in words and as JSON
    stderr.py        what is said to the user
    cluster.py       sage cluster; holding.py  the process behind one; detached.py  what goes on without us
    dead_letters.py, doctor.py (checks.py, ray_checks.py: what it looks at), rag.py, version.py
"""
