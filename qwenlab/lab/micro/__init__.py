"""The micro Qwen-Image: the stock classes with a small configuration, trained from nothing on `qwenlab.lab.world`."""
