"""Whether anybody answers, found out within seconds, where clients of the Hub and of trackers would try for minutes."""

from __future__ import annotations

import ssl
import time
import urllib.error
import urllib.request

SECONDS = 5.0  # to wait for a connection


def unreachable(address: str) -> str | None:
    """Why nobody can be reached at an http address, by two attempts; None where somebody is, whatever is answered."""
    reason = ""
    for wait in (1.0, 0.0):
        try:
            with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=SECONDS):
                return None
        except urllib.error.HTTPError:
            return None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLError):
                return None  # the clients may have certificates of their own
            reason = f"{address}: {error.reason}"
            time.sleep(wait)
        except (OSError, ValueError):  # reached, and gone in the middle of an answer
            return None
    return reason


def hub_unreachable() -> str | None:
    """Return the same for the Hub; clients that are told to be offline know it without asking, and it is None."""
    from huggingface_hub import HfApi, constants

    return None if constants.is_offline_mode() else unreachable(HfApi().endpoint)
