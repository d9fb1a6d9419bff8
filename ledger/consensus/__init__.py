"""Agreement on the next block: Tendermint (arXiv 1807.04938, Algorithm 1) as pure functions.

- `validators`: who votes with what power, what a quorum is, who leads a round.
- `messages`: the nouns: candidates, proposals, votes, and what each signature covers.
- `rules`: "may I vote?": locking, and never signing twice.
- `core`: "what follows?": `step(replica, event) -> (replica, outputs)`.
- `events`: what goes into and comes out of `step`.
- `timers`: how long a round waits.
- `blocks`: building and checking blocks and certificates.

The rules are numbered C1, C2, ... in ``SPEC.md``; the tests cite the numbers.
"""

from __future__ import annotations
