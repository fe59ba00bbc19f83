"""The laboratory: drawn world, pretraining of the micro model, judges. Nobody with real pictures needs it.

`world` draws characters of whom everything is known, `micro` trains the micro Qwen-Image on them, `judge` reads
pictures and knows its own errors, `hands` trains the networks for hands and feet, `weights` holds what all of them
ship, `results` says which weights a stored result belongs to, `localisation`, `caption_effects` and `caption_scores`
measure attention maps, captions and the linter.
"""
