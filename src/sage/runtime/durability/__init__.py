"""What outlives a run: the job directory, in which everything stands that a run needs to go on where another was cut
off.

    rows.py         checked rows (row.py) in one SQLite file; disk.py  what the disk says
    recording.py    the thread that commits them, many at a time
    blobs.py        what is too large for a row
    lock.py         one run at a time, and which it is
    memo.py         the step journal: results that were paid for; reuse.py  those that jobs share
    slots.py        which calls were in flight when a process died
    manifest.py     what the job is, so that another one is recognised; fingerprint.py  what an operator is
    checkpoint.py   positions, outputs and states, all as of one moment
    opening.py      how the directory is made, and made ready for the next run
    journals.py     the step journals of a host: near.py  where it sees the directory, far.py  where it asks the driver
    directory.py    all of it put together, as `durable.py` asks for it
    doubts.py       what of a pipeline is not kept as the rest is
    billing.py      what calls came to
    audit.py        looks at a directory from outside: is it whole, what is in it, what was paid

A run without a job directory imports none of it.
"""
