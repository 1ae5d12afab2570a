from .engines.simulation import Training as Training
from .engines.simulation import simulate as simulate
