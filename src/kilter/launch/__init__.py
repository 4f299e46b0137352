"""What is settled before a training runs on a cluster: its settings, what is refused, the plan, the job."""
