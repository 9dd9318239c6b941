"""The list of nodes that ComfyUI asks for when it loads the pack."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .decoder import FLOATDecodeMotion, FLOATRenderVideo
from .emotion import FLOATEmotion, FLOATEmotionFromSpeech
from .examples import FLOATExamplePortrait, FLOATExampleSpeech
from .face import FLOATCropFace, FLOATEncodePortrait
from .folders import register_model_folders
from .loader import FLOATLoadModel
from .sampler import FLOATSampleMotion
from .speech import FLOATEncodeSpeech
from .talk import FLOATTalkingPortrait, FLOATTalkingPortraitVideo

NODES: tuple[type[io.ComfyNode], ...] = (
    FLOATLoadModel,
    FLOATCropFace,
    FLOATEncodePortrait,
    FLOATEncodeSpeech,
    FLOATEmotion,
    FLOATEmotionFromSpeech,
    FLOATSampleMotion,
    FLOATDecodeMotion,
    FLOATRenderVideo,
    FLOATTalkingPortrait,
    FLOATTalkingPortraitVideo,
    FLOATExamplePortrait,
    FLOATExampleSpeech,
)


class FloatExtension(ComfyExtension):
    """FLOAT's nodes and model folders."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Make ComfyUI's model folders known and return the nodes."""
        register_model_folders()
        return list(NODES)
