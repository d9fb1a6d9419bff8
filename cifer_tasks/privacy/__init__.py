"""Privacy of one site's update: clipping."""

from cifer_tasks.privacy.clipping import clip, l2_norm

__all__ = ["clip", "l2_norm"]
