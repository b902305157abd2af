"""An evaluation inside a Trainer's run: when it is due, what it logs and keeps, when it stops the run."""
