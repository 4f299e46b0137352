"""Several processes: collectives, engines, and how the processes are started and end."""
