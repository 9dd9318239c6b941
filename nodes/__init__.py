"""The ComfyUI nodes: thin entrances to `float_core`, and the only code that knows ComfyUI."""
