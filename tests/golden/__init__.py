"""Golden curves: what 50 steps of each method and objective come to, kept in `curves.json`.

A change that only reshapes code leaves them as they are, bit for bit, on one machine; a change of the numbers is
recorded with its reason in the commit. Each run has ragged rows, packed, dropout, held-out rows and a resume in the
middle.

    python -m tests.golden --against HEAD      # this checkout and that commit, bit for bit
    python -m tests.golden --record            # write curves.json anew
"""
