"""What component code may name: the allow-list behind `component_lint`. Data, and one rule for each list.

Chosen, not generated: arithmetic on tensors, modules, initialisers, optimizers, small Python. Nothing here
loads, saves, compiles, starts threads, reaches other devices or changes settings of the process.
"""

from __future__ import annotations

__all__ = ["ATTRIBUTES", "BUILTINS", "DECORATORS", "DOTTED", "IMPORTS", "PRESENT"]


def _words(text: str) -> list[str]:
    return text.split()


PRESENT = {
    "torch": "torch",
    "nn": "torch.nn",
    "F": "torch.nn.functional",
    "Tensor": "torch.Tensor",
    "math": "math",
}
"""Names that are there without an import, and what they are."""

IMPORTS = frozenset(
    _words(
        """
        __future__ torch torch.nn torch.nn.functional torch.nn.init torch.nn.parameter torch.optim
        torch.optim.optimizer torch.linalg math typing collections collections.abc dataclasses functools
        itertools
        """
    )
)
"""Modules that may be imported."""

DECORATORS = frozenset(_words("torch.no_grad staticmethod classmethod property dataclasses.dataclass"))

_ON_TENSORS = _words("""
abs acos acosh add addbmm addcdiv addcmul addmm addmv addr all allclose amax amin aminmax any argmax
argmin argsort asin asinh atan atan2 atanh baddbmm bernoulli bincount bitwise_and bitwise_not
bitwise_or bitwise_xor bmm broadcast_to bucketize ceil chunk clamp clamp_max clamp_min clip clone
copysign cos cosh count_nonzero cross cummax cummin cumprod cumsum deg2rad detach diag diag_embed
diagonal diff digamma div divide dot eq equal erf erfc erfinv exp exp2 expm1 flatten flip floor
floor_divide fmax fmin fmod frac gather ge ger greater greater_equal gt heaviside hypot index_add
index_copy index_fill index_select inner isclose isfinite isinf isnan kron kthvalue le lerp less
less_equal lgamma log log10 log1p log2 log_softmax logaddexp logaddexp2 logcumsumexp logical_and
logical_not logical_or logical_xor logit logsumexp lt masked_fill masked_scatter masked_select
matmul matrix_exp matrix_power max maximum mean median min minimum mm movedim mul multinomial
multiply mv nan_to_num nanmean nansum narrow ne neg negative nonzero norm not_equal numel outer
permute polygamma positive pow prelu prod quantile ravel reciprocal relu remainder renorm
repeat_interleave reshape roll round rsqrt scatter scatter_add scatter_reduce select sgn sigmoid
sign sin sinc sinh softmax sort split sqrt square squeeze std sub subtract sum swapaxes swapdims t
take take_along_dim tan tanh tensor_split tile topk trace transpose tril triu true_divide trunc
unbind unflatten unique unsqueeze var vdot where xlogy
""")
"""Functions of torch that are methods of a tensor as well."""

_TORCH = _words("""
arange atleast_1d atleast_2d atleast_3d bfloat16 block_diag bool broadcast_tensors cartesian_prod
cat cdist celu combinations concat concatenate cosine_similarity device dropout dtype einsum empty
empty_like enable_grad eye finfo float16 float32 float64 full full_like hstack inf int32 int64
is_tensor isin layer_norm linspace logspace long float meshgrid nan nextafter no_grad normal ones
ones_like pi poisson rand rand_like randint randint_like randn randn_like randperm result_type
rms_norm scalar_tensor searchsorted selu stack std_mean tensor tensordot tril_indices triu_indices
var_mean vstack zeros zeros_like Size Tensor
""")

_FUNCTIONAL = _words("""
adaptive_avg_pool1d adaptive_max_pool1d alpha_dropout avg_pool1d batch_norm bilinear
binary_cross_entropy binary_cross_entropy_with_logits celu conv1d cosine_similarity cross_entropy
dropout dropout1d elu embedding gelu glu group_norm gumbel_softmax hardshrink hardsigmoid hardswish
hardtanh huber_loss instance_norm interpolate kl_div l1_loss layer_norm leaky_relu linear
log_softmax logsigmoid max_pool1d mish mse_loss normalize one_hot pad pairwise_distance prelu relu
relu6 rms_norm rrelu scaled_dot_product_attention selu sigmoid silu smooth_l1_loss softmax softmin
softplus softshrink softsign tanh tanhshrink threshold unfold
""")

_MODULES = _words("""
AdaptiveAvgPool1d AdaptiveMaxPool1d AlphaDropout AvgPool1d BatchNorm1d Bilinear CELU Conv1d
CosineSimilarity Dropout Dropout1d ELU Embedding Flatten GELU GLU GRU GRUCell GroupNorm Hardshrink
Hardsigmoid Hardswish Hardtanh Identity InstanceNorm1d LSTM LSTMCell LayerNorm LeakyReLU Linear
LogSigmoid LogSoftmax MaxPool1d Mish Module ModuleDict ModuleList MultiheadAttention PReLU
PairwiseDistance Parameter ParameterDict ParameterList RMSNorm RNN RNNCell RReLU ReLU ReLU6 SELU
Sequential SiLU Sigmoid Softmax Softmin Softplus Softshrink Softsign Tanh Tanhshrink Threshold
TransformerEncoderLayer Unflatten
""")

_INITIALISERS = _words("""
calculate_gain constant_ dirac_ eye_ kaiming_normal_ kaiming_uniform_ normal_ ones_ orthogonal_
sparse_ trunc_normal_ uniform_ xavier_normal_ xavier_uniform_ zeros_
""")

_OPTIMIZERS = _words("ASGD Adadelta Adagrad Adam AdamW Adamax NAdam Optimizer RAdam RMSprop Rprop SGD")

_LINEAR_ALGEBRA = _words("matrix_norm norm qr solve svd vector_norm eigh cholesky inv matrix_power")

_MATH = _words("""
acos acosh asin asinh atan atan2 atanh ceil comb copysign cos cosh degrees dist e erf erfc exp expm1
fabs factorial floor fmod frexp fsum gamma gcd hypot inf isclose isfinite isinf isnan isqrt ldexp
lgamma log log10 log1p log2 modf nan pi pow prod radians sin sinh sqrt tan tanh tau trunc
""")

_TYPING = _words("""
Any Callable ClassVar Dict Final Generic Iterable Iterator List Literal Mapping NamedTuple Optional
Sequence Tuple TypeAlias TypeVar Union cast
""")

_ITERTOOLS = _words(
    "accumulate chain combinations count cycle islice pairwise permutations product repeat zip_longest"
)

DOTTED = frozenset(
    [
        *(f"torch.{name}" for name in (*_ON_TENSORS, *_TORCH)),
        *(f"torch.nn.functional.{name}" for name in _FUNCTIONAL),
        *(f"torch.nn.{name}" for name in _MODULES),
        *(f"torch.nn.init.{name}" for name in _INITIALISERS),
        *(f"torch.optim.{name}" for name in _OPTIMIZERS),
        *(f"torch.linalg.{name}" for name in _LINEAR_ALGEBRA),
        *("torch.preserve_format", "torch.contiguous_format", "torch.nn.Buffer"),
        *("torch.nn.parameter.Parameter", "torch.optim.optimizer.Optimizer"),
        *(f"math.{name}" for name in _MATH),
        *(f"typing.{name}" for name in _TYPING),
        *(f"collections.{name}" for name in ("Counter", "OrderedDict", "defaultdict", "deque", "namedtuple")),
        *(f"collections.abc.{name}" for name in ("Callable", "Iterable", "Iterator", "Mapping", "Sequence")),
        *(f"dataclasses.{name}" for name in ("dataclass", "field")),
        *(f"functools.{name}" for name in ("partial", "reduce")),
        *(f"itertools.{name}" for name in _ITERTOOLS),
        "__future__.annotations",
    ]
)
"""Full names that may be used, however the source got at them (`import torch.nn as n; n.Linear`)."""

ATTRIBUTES = frozenset(
    [
        *_ON_TENSORS,
        *(f"{name}_" for name in _ON_TENSORS),
        *_words(
            """
        H T as_tensor bfloat16 bool contiguous copy_ data device dim dtype element_size expand
        expand_as fill_ float double grad half index_put index_put_ int is_floating_point is_leaf
        item itemsize long mT ndim new_empty new_full new_ones new_tensor new_zeros normal_ random_
        repeat requires_grad requires_grad_ reshape_as scatter_add_ shape size stride to tolist
        type_as unfold uniform_ view view_as zero_ cauchy_ exponential_ geometric_ log_normal_
        """
        ),
        *_words(
            """
        append clear copy count discard endswith extend get index insert items join keys lower pop
        popitem popleft appendleft remove replace reverse setdefault startswith strip update upper
        values fromkeys
        """
        ),
        *_words(
            """
        add_module add_param_group apply bias buffers children defaults embedding_dim eps eval
        extra_repr forward in_features modules named_buffers named_children named_modules
        named_parameters normalized_shape num_embeddings num_features out_features param_groups
        parameters register_buffer register_parameter reset_parameters state step train training
        weight zero_grad max min tiny is_integer func args keywords
        """
        ),
    ]
)
"""Attributes and methods that may be used on a value; so may any that the source itself defines."""

BUILTINS = frozenset(
    _words(
        """
    ArithmeticError AssertionError AttributeError Exception False IndexError KeyError LookupError
    None NotImplemented NotImplementedError OverflowError RuntimeError StopIteration True TypeError
    ValueError ZeroDivisionError abs all any bool callable classmethod dict divmod enumerate filter
    float frozenset int isinstance issubclass iter len list map max min next object pow property
    range reversed round set slice sorted staticmethod str sum super tuple zip
    """
    )
)
"""Built-in names that may be used."""
