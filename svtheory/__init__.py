"""When and why the singular vectors of an attention head are the features a model uses.

A Scenario is read twice: `predict(scenario)` gives the spectrum that theory expects, `sims.simulate(scenario, key)`
trains a head and gives the spectrum that came out, and `compare(prediction, measurement)` says how they agree.
"""

from svtheory.alignments import (
    alignment,
    alignment_p_value,
    best_matching,
    chance_alignment,
    principal_cosines,
    sampled_chance,
)
from svtheory.arrangements import (
    antipodal,
    conditioned_frame,
    extremal_pair,
    frame_with_spectrum,
    orthonormal,
    polygon,
    simplex,
    tegum,
    tight_frame,
    worst_case_frame,
)
from svtheory.bounds import alignment_bound, kantorovich_bound, local_alignment_bound
from svtheory.checks import InputError
from svtheory.criteria import conditions
from svtheory.dynamics import (
    filtered_optimum,
    growth,
    half_times,
    imbalance,
    mode_start,
    training_condition_number,
    training_condition_numbers,
)
from svtheory.frames import (
    condition_number,
    dual_frame,
    feature_dimensionality,
    frame_bounds,
    frame_operator,
    frame_potential,
    leverage,
    spread,
)
from svtheory.heads import (
    CONVENTIONS,
    RULES,
    Decomposition,
    Explanation,
    Head,
    HeadBundle,
    IndependentRotations,
    RotationNull,
    SparsenessTest,
    common_rotation_sparseness,
    count_vectors,
    decompose,
    explain,
    fold_layer_norm,
    fold_rms_norm,
    independent_rotation_sparseness,
    leverage_terms,
    load_heads,
    relative_attention,
    rotation_null,
    save_heads,
    sparseness_test,
    treves_rolls,
    unwhiten,
)
from svtheory.laws import BernoulliUniform, Gaussian, Law, OneHot
from svtheory.logits import logit_scale
from svtheory.moments import correlations, probes
from svtheory.optimum import mode_strengths, optimal_omega, predict
from svtheory.pairs import PairStructure, pair_structure, star_alignment
from svtheory.phases import (
    ARRANGEMENTS,
    Arrangement,
    adaptive_threshold,
    collapse_threshold,
    exact_minimum,
    lowest_arrangement,
    orthogonalization_threshold,
    phase_energy,
    stationary_arrangements,
)
from svtheory.polytopes import Polytopes, polytope_name, polytopes
from svtheory.robustness import mixed_gaps, nameable, wedin_bound, wedin_own_bound
from svtheory.rotary import RotaryHead, plane_cost, projected_profile, rotary_head, rotary_spectra
from svtheory.scenarios import Scenario
from svtheory.spectra import Agreement, Spectrum, compare, effective_rank, spectrum, value_gaps, value_groups
from svtheory.targets import matching, single_pair
from svtheory.tightness import TightGroups, eigenvector_residual, pair_values, quantised_values, tight_groups
from svtheory.verdicts import Condition, Conditions
