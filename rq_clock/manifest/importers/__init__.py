"""Schedules of other schedulers, read from their own files and tables: text in, `Imported` out.

Pure, and no text makes an importer raise. A schedule fires when the other tool would have run it,
or it is in `left_out` with the reason. `notes` has the differences in behavior. Neither of the two
shows a secret; the schedules contain the values of the text.

Every target is a `command`, or on request a `dyno`. Overlap and catch-up stay at rq-clock's
defaults.
"""
