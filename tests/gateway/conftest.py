"""uvloop keeps a pipe from its first loop on, for as long as the process lives: made before any test looks."""

import uvloop

uvloop.new_event_loop().close()
