"""Runs docs/secure-mqtt.cddl against messages, by cddl-verifier.

    check_cddl.py SCHEMA VECTORS-FOLDER [MESSAGES]

Every accepted vector must be valid. Every vector refused for `format` or `header` must not be, but for those that
break a rule which CDDL cannot say, named below. Each line of the file MESSAGES is a message in hexadecimal that our
decoder takes: it must be valid too. Prints what differs; exit code 1 if anything does.
"""

import json
import os
import sys
from pathlib import Path

from cddl_verifier import Validator

# Rules in prose only: names that agree, order, ranges across members, labels forbidden by name, what is said twice.
BEYOND_CDDL = {
    "bn-other-auditor", "bn-repeated", "time-backwards",
    "sub-other", "iss-all", "prev-zero", "receipts-range-backwards", "hello-chain-of-another", "hello-with-seq",
    "update-aud-other", "update-with-prev", "alert-control-character", "alert-of-auditor-with-aud",
}


def main():
    validator = Validator(Path(sys.argv[1]))
    folder = sys.argv[2]

    def is_valid(message):
        return validator.validate(message, root_type="message").valid

    def rows(name):
        return json.load(open(os.path.join(folder, f"{name}.json"), encoding="utf-8"))

    wrong = []
    checked = 0
    for row in rows("accepted"):
        checked += 1
        if not is_valid(bytes.fromhex(row["message"])):
            result = validator.validate(bytes.fromhex(row["message"]), root_type="message")
            wrong.append(f"{row['name']}: accepted, but not valid by CDDL: {result.diagnostics[0].message[:300]}")
    for row in rows("refused"):
        if row["reason"] in ("format", "header"):
            checked += 1
            if is_valid(bytes.fromhex(row["message"])) != (row["name"] in BEYOND_CDDL):
                wrong.append(f"{row['reason']} {row['name']}: CDDL says otherwise than expected")
    if len(sys.argv) > 3:
        for line in open(sys.argv[3], encoding="ascii"):
            checked += 1
            if not is_valid(bytes.fromhex(line)):
                wrong.append(f"taken by the decoder, but not valid by CDDL: {line.strip()}")
    for line in wrong:
        print(line)
    print(f"{checked} messages checked, {len(wrong)} differ")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
