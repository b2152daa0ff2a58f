"""Ways of making several replicas train one model; imports gradients, comm and tensors."""

from hvdkit.strategies.adasum import Adasum
from hvdkit.strategies.allreduce import AllReduce
from hvdkit.strategies.base import Parameter, Strategy
from hvdkit.strategies.hierarchical import Hierarchical
from hvdkit.strategies.recorded import Message, Recorded

__all__ = ["Adasum", "AllReduce", "Hierarchical", "Message", "Parameter", "Recorded", "Strategy"]
