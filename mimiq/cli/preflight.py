"""What can be refused at once is refused before anything slow begins."""

from __future__ import annotations

from mimiq.libraries import require_compile_extra
from mimiq.models.names import check_name


def require_model(name: str) -> None:
    """Refuse what cannot be compiled, here or at all.

    Raises:
        EnvironmentLacks: a library is missing, see :func:`require_compile_extra`.
        BadInput: as :func:`mimiq.models.names.check_name`.
    """
    require_compile_extra()
    check_name(name)
