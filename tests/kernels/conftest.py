"""What the tests of kernels share."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """Keep small tensors off other threads, which wait long for their turn on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
