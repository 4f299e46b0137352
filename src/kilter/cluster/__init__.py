"""The run-time of a cluster: workers of Ray or of this process, pools that watch them, weights on the way."""
