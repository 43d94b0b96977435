"""A brand as one TOML file: read and judged (reading), written into rows by the house's writers (importing), and made
from rows again (exporting)."""
