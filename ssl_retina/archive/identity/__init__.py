"""Who a picture is of, as far as anybody may know: pseudonyms, devices, rare combinations, the way back."""
