import os
import signal
import threading

import pytest

from neumeta_hf.training.signals import StopSignals

STOPS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def _handlers_are_as_before():
    before = [signal.getsignal(number) for number, _ in STOPS]
    yield
    assert [signal.getsignal(number) for number, _ in STOPS] == before


@pytest.mark.parametrize(("number", "error"), STOPS)
def test_outside_of_steps_a_signal_stops_at_once(number, error):
    with StopSignals() as signals, pytest.raises(error) as caught:
        send(number)
    assert signals.received == number
    assert error is KeyboardInterrupt or caught.value.code == 143


@pytest.mark.parametrize(("number", "error"), STOPS)
def test_in_steps_the_first_is_noted_and_the_second_stops_at_once(number, error, caplog):
    with StopSignals() as signals, signals.deferred():
        send(number)
        assert signals.received == number
        assert signals.name in caplog.text
        with pytest.raises(error):
            send(number)
        with pytest.raises(error):
            signals.stop()


def test_a_part_of_the_steps_can_be_stopped_at_once():
    with StopSignals() as signals, signals.deferred():
        with pytest.raises(KeyboardInterrupt), signals.undeferred():
            send(signal.SIGINT)
        signals.received = None
        send(signal.SIGTERM)  # deferred again
        with pytest.raises(SystemExit), signals.undeferred():
            pytest.fail("the signal came before")


def test_without_a_signal_nothing_stops():
    with StopSignals() as signals, signals.deferred(), signals.undeferred():
        signals.stop()
    assert signals.received is None


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    try:
        with StopSignals() as signals:
            send(signal.SIGINT)
        assert signals.received is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_have_no_handlers():
    errors = []

    def use():
        try:
            before = signal.getsignal(signal.SIGINT)
            with StopSignals():
                assert signal.getsignal(signal.SIGINT) is before
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert errors == []


def test_a_forked_process_dies_of_the_signal_as_it_would_have():
    with StopSignals() as signals, signals.deferred():
        child = os.fork()
        if child == 0:
            send(signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGTERM
        assert signals.received is None
