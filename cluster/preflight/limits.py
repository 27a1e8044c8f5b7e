"""How long preflight waits for what: a minute where a node is dead and others are quick."""

# An NFS client may believe for 30 s (acdirmin) that there is no rendezvous.json yet.
MEET_S = 35.0
# Meeting takes a second or so, the all-reduces another on 1 Gb/s.
ROUND_S = 8.0
# For a process that hung, and was started anew, to import torch again.
RESTART_S = 15.0
# For what is said to arrive.
MARGIN_S = 2.0
# What a node that is ready waits for the slowest to come, and for two rounds that it sits out.
PATIENCE_S = MEET_S + 2 * (ROUND_S + 2 * MARGIN_S) + RESTART_S + 2 * MARGIN_S
