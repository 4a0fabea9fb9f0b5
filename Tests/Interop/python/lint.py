"""pkilint, which refuses URIs of schemes that its list does not have: with `spiffe` on that list.

lint.py lint_pkix_cert|lint_crl ARGUMENTS
"""

import importlib
import sys

# The package's attribute of that name is the function.
urls = importlib.import_module("validators.url")
known = urls._validate_scheme
urls._validate_scheme = lambda scheme: scheme == "spiffe" or known(scheme)

program = importlib.import_module(f"pkilint.bin.{sys.argv[1]}")
sys.argv = sys.argv[1:]
sys.exit(program.main())
