"""Who a picture is of, as far as anybody may know: pseudonyms, rare combinations, the first key."""
