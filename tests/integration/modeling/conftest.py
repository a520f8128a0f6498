"""Families that tests of modeling share."""

import pytest


@pytest.fixture
def family(case):
    return case.family()


@pytest.fixture
def lenet_family(lenet_case):
    return lenet_case.family()


@pytest.fixture
def kept_family(make_case):
    return make_case("resnet", "keep").family()
