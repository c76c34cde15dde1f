"""How long tests wait for what has to come; a busy machine may take long, and nobody asserts that it did not."""

DEADLINE_S = 100.0
