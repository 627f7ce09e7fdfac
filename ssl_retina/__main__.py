"""`python -m ssl_retina VERB ...` is `ssl-retina VERB ...`."""

from ssl_retina.cli import main

if __name__ == "__main__":
    main()
