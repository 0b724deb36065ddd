"""The four services; `python -m services.<name>` starts one."""

import gc

# Before anything else is imported: all of it stays, and to look for garbage among it every 700 objects took a tenth of
# a service's start. Later on as well, little here has cycles: it took a twentieth to a tenth of a service's time.
gc.set_threshold(50_000, 20, 50)
