"""Photographs that are copies of each other, exactly or nearly."""
