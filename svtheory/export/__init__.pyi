from .hugging_face import from_transformers as from_transformers
from .lens import from_transformer_lens as from_transformer_lens
