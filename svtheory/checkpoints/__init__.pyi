from .architecture import Architecture as Architecture
from .checkpoint import Checkpoint as Checkpoint
from .exporting import bundle_heads as bundle_heads
from .hub import fetch as fetch
from .hub import tokenize as tokenize
from .inference import ForwardPass as ForwardPass
from .inference import LayerPass as LayerPass

from .inference import forward as forward
from .inference import read_layers as read_layers
