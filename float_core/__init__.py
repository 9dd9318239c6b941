"""The whole of FLOAT; runs with no ComfyUI present."""
