"""Many pipelines at once: jobs that survive the terminal they were submitted from, and the manager of them.

======================  ============================================================================================
`states`, `admission`   pure: which state may follow which; which job may start, and what each may have in flight
`queueing`, `machine`   jobs as admission sees them; what there is for them
`job`                   what was submitted and what became of it, as plain data
`store`, `folder`       where that is kept: one SQLite file, and a folder for each job
`supervisor`            the process that sees to one run of one job, and outlives the manager
`intake`, `register`    what is added to a job that is submitted; all that a manager knows, as it is stored
`manager`               takes jobs in, has them started, settles how they ended
`endpoints`, `revival`  the gateway before the endpoints that jobs share; started again where it died
`supervision`           its supervisors: started, heard, waited for
`figures`               those of all jobs, as Prometheus reads them
`routes`, `api`         what can be asked over HTTP; `openapi` describes it
`server`                who may ask, and how much
`client`                asks it
`daemon`                the process of the manager
`log`, `outcome`        what a job wrote; how it ended
`cleanup`               what was left behind
======================  ============================================================================================

Nothing is imported here: a supervisor, of which there is one a job, takes only what it needs.

The command line (`sage jobmanager`, `sage job`) is a client like any other. docs/jobs.md says how to use it.
"""
