from .criteria import conditions as conditions
from .pairs import PairStructure as PairStructure
from .pairs import pair_structure as pair_structure
from .pairs import star_alignment as star_alignment
from .verdicts import Condition as Condition
from .verdicts import Conditions as Conditions
