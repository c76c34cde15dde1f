"""The command line: one file per group of commands, imported when it is asked for.

::

    main.py          the way in; what becomes of every error; exit codes
    commands.py      the lazy group of commands; usage.py  click's complaints in SAGE's words
    run.py           sage run; run_options.py  what sage job submit can say of a run too
    user_file.py     the user's Python file, executed; near_miss.py  what was meant by a name that there is not
    files.py         files named on the command line, and those that were meant
    watching.py      a run from start to end on the terminal
    progress.py      plain lines while it runs; live.py  the table of a terminal; why.py  the scheduler's reasons
    figures.py       numbers, times and tables as text; report.py  how a run ended, in words and as JSON
    stderr.py        what is said to the user
    job.py           sage job; job_directory.py  of a run's own directory; job_report.py  a job in words
    submitted.py     the process of a job; job_gateway.py  that of the gateway which jobs share
    jobmanager.py    sage jobmanager; detached.py  what goes on without us
    cluster.py       sage cluster; cluster_report.py  as a table; holding.py  the process behind one
    gateway.py       sage gateway; used_tokens.py  sage usage; endpoint.py  sage endpoint
    limits.py, waiting.py: what a server may hold, and its wait for Ctrl-C
    dead_letters.py  sage dead-letters; reasons.py  why records failed
    doctor.py        sage doctor; checks.py, ray_checks.py: what it looks at
    simulate.py      sage simulate; validation.py  its --validate
    bench.py, queue.py, rag.py, version.py
"""
