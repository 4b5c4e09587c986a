"""A process of a job: its rank, signals, heartbeat, streams, log and end."""
