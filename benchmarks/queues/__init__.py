"""The queues against their peers, in one run: ``make bench-queues``.

::

    __main__.py        the table
    harness.py         rounds in turns, processes, rows and bars: how to add a row stands there
    channels.py        SAGE's queues and their peers under the same names
    local.py           threads of one process
    shared_memory.py   processes of one machine
    many.py            4 producers and 4 consumers on one queue of each kind
"""
