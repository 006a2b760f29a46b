"""`make bench`: ratios against the plainest way of doing the same thing, measured side by side in one run."""
