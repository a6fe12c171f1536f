"""What `star-exp --help` lists: the commands by what they are for, each in a line that fits."""

from __future__ import annotations

GROUPS = {
    "Start": {
        "init": "write the example experiments into this folder",
        "data": "fetch a data set",
        "weights": "fetch FID's network; write a run's weights for other programs",
        "completion": "teach your shell to complete commands and names",
    },
    "Run": {
        "plan": "rows, runs and stages of a file; what is done, time, cost",
        "run": "compute what a file asks for, and write its report",
        "search": "look for the best values of fields, with Optuna",
        "cancel": "take jobs out of the queue, and stop running ones",
        "retry": "queue jobs that failed, were cancelled or got lost",
        "rerun": "queue jobs that are done, and all that was made of them",
    },
    "Look": {
        "status": "experiments, their runs and the jobs that are open",
        "watch": "the same, live, until nothing is left to do",
        "board": "everything in a browser, live",
        "show": "everything about a run or a job",
        "logs": "what a job printed",
        "why": "why a job runs, waits, failed or is not computed again",
        "diff": "what differs between two runs, or two jobs",
    },
    "Report": {
        "report": "tables, figures and claims from tracked metrics",
        "claims": "judge the claims; what would decide the open ones",
        "log": "attach numbers of your own to a run",
        "evaluate": "FID, precision, recall of any images",
        "reference": "write the moments of images, to evaluate against",
    },
    "Share": {
        "export": "write an experiment as one file",
        "import": "take in what export wrote",
        "verify": "make an exported table again, or compute runs of it",
    },
    "Tidy": {
        "gc": "show, or remove, what no run needs",
        "forget": "take finished experiments out of status",
        "reindex": "make the ledger again from the jobs' folders",
        "notify": "send a test message to whom STAR_NOTIFY names",
    },
}
