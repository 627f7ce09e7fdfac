"""F99: which values of a device field are a model's name, and which may be a person's."""

import pytest

from ssl_retina.archive.statements import devices
from ssl_retina.archive.statements.devices import Usage

MODELS = (
    *("Topcon 3D OCT-1000 Mark II", "TRC-NW8F Plus", "TRC-50DX", "DRI OCT Triton", "Maestro2", "3DOCT-2000"),
    *("Canon CR-2 Plus AF", "CR-DGi", "OCT-HS100", "Digital Retinal Camera CR-2", "Topcon TRC NW6"),
    *("Carl Zeiss Meditec", "Zeiss Cirrus HD-OCT", "VISUCAM NM/FA", "CLARUS 500", "PLEX Elite 9000"),
    *("Heidelberg Spectralis", "SPECTRALIS HRA+OCT", "Spectralis 6.10.5", "Optovue Avanti RTVue XR"),
    *("P200DTx", "Optos California", "AFC-330", "RS-3000 Advance2", "nonmyd WX-3D", "Kowa VX-20"),
    *("EIDON AF", "DRSplus", "RetCam3", "Volk Pictor Plus", "Remidio FOP NM-10", "Phelcom Eyer"),
    *("Nikon NF-505 camera", "Welch Allyn RetinaVue 100", "Topcon A", "camera-b", "Optomed Aurora IQ"),
)
PEOPLE = (
    *("Topcon Anna Schmidt", "Volk Annemarie", "CAM NGUYEN", "Topcon Ng", "Canon Li Wu", "Zeiss Carl Maria"),
    *(
        "Topcon Mark Ivanov",
        "Schmidt1 Topcon",
        "Canon-Schmidt",
        "Anna Schmidt",
        "Topcon TRC 50 Doe",
        "Mark 2",
    ),
)


@pytest.mark.parametrize("name", MODELS)
def test_names_of_models_are_kept(name: str) -> None:
    assert devices.is_plain(name)


@pytest.mark.parametrize("name", PEOPLE)
def test_f99_a_makers_word_excuses_no_other_word(name: str) -> None:
    assert not devices.is_plain(name)


def test_f99_a_table_of_makers_words_before_names_looks_like_people() -> None:
    usage = Usage()
    for patient, name in enumerate(PEOPLE[:3]):
        usage.add(name, str(patient))
        usage.add("Topcon TRC-NW400", str(patient))
    assert usage.identities() == set(PEOPLE[:3])
