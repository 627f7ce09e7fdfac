"""Small trees of the layouts that the shipped recipes know, and what must come out of each.

In: nothing. Out: `LAYOUTS`: recipe -> `Layout`. A file is an image (its number draws it), a text or bytes.
"""

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path

import factory
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, OphthalmicPhotography8BitImageStorage

File = int | str | bytes


@dataclasses.dataclass(frozen=True)
class Layout:
    """files: path -> image number, text or bytes. The rest is what the shards must hold.

    eyes, splits, devices, modalities: samples by value. visits: samples by order of the visit.
    skipped: files left out by reason. labelled: photographs with a label, for each labels table.
    """

    files: Mapping[str, File]
    images: int
    patients: int
    eyes: Mapping[str, int]
    splits: Mapping[str, int]
    devices: Mapping[str | None, int]
    modalities: Mapping[str, int]
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    labelled: tuple[int, ...] = ()
    visits: Mapping[int | None, int] | None = None

    def draw(self, folder: Path) -> Path:
        """Write the tree."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.write_text(content, encoding="utf-8")
            elif isinstance(content, bytes):
                path.write_bytes(content)
            else:
                suffix = "png" if path.suffix.lower() == ".png" else "jpg"
                path.write_bytes(factory.encoded(factory.pixels(content), suffix))
        return folder


TABLE = "a table of the recipe"
OTHER = "none of the images the recipe names"
SYSTEM = "what an operating system leaves behind"


def _csv(*rows: str) -> str:
    return "\n".join(rows) + "\n"


def dicom(number: int, patient: str, eye: str, date: str) -> bytes:
    """Image `number` as an Ophthalmic Photography object with a patient, a side and a day."""
    pixels = factory.pixels(number)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = OphthalmicPhotography8BitImageStorage, f"1.2.3.{number}"
    made.StudyInstanceUID, made.SeriesInstanceUID = f"1.2.4.{number}", f"1.2.5.{number}"
    made.PatientID, made.PatientName, made.StudyDate = patient, "Meier^Eva", date
    made.Modality, made.ImageLaterality, made.ManufacturerModelName = "OP", eye, "Topcon TRC-NW8"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel, made.PlanarConfiguration, made.PhotometricInterpretation = 3, 0, "RGB"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.PixelData = pixels.tobytes()
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


LAYOUTS: dict[str, Layout] = {
    "adam": Layout(
        files={
            "Training400/AMD/A0001.jpg": 1,
            "Training400/Non-AMD/N0001.jpg": 2,
            "Training400/Disc_Masks/A0001.bmp": 3,
            "Training400/Fovea_location.xlsx": "x",
            "Validation/image/V0001.jpg": 4,
            "Test/Test-image-400/T0001.jpg": 5,
        },
        images=4,
        patients=0,
        eyes={"unknown": 4},
        splits={"train": 2, "val": 1, "test": 1},
        devices={"Zeiss Visucam 500": 4},
        modalities={"fundus": 4},
        skipped={"masks of disc and lesions": 1, OTHER: 1},
    ),
    "airogs": Layout(
        files={
            "0/TRAIN000000.jpg": 1,
            "0/TRAIN000001.jpg": 2,
            "5/TRAIN090000.jpg": 3,
            "train_labels.csv": _csv(
                "challenge_id,class", "TRAIN000000,NRG", "TRAIN000001,RG", "TRAIN090000,NRG"
            ),
        },
        images=3,
        patients=0,
        eyes={"unknown": 3},
        splits={"train": 3},
        devices={None: 3},
        modalities={"fundus": 3},
        skipped={TABLE: 1},
        labelled=(3,),
    ),
    "aptos2019": Layout(
        files={
            "train_images/000c1434d8d7.png": 1,
            "train_images/001639a390f0.png": 2,
            "test_images/0005cfc8afb6.png": 3,
            "train.csv": _csv("id_code,diagnosis", "000c1434d8d7,2", "001639a390f0,4"),
            "test.csv": _csv("id_code", "0005cfc8afb6"),
        },
        images=3,
        patients=0,
        eyes={"unknown": 3},
        splits={"train": 2, "test": 1},
        devices={None: 3},
        modalities={"fundus": 3},
        skipped={TABLE: 1, OTHER: 1},
        labelled=(2,),
    ),
    "brset": Layout(
        files={
            "1.0.1/fundus_photos/img00001.jpg": 1,
            "1.0.1/fundus_photos/img00002.jpg": 2,
            "1.0.1/fundus_photos/img00003.jpg": 3,
            "1.0.1/labels_brset.csv": _csv(
                "image_id,patient_id,camera,patient_age,patient_sex,exam_eye,macular_edema,amd,"
                "increased_cup_disc,DR_ICDR",
                "img00001,1,Canon CR,48,1,1,0,0,0,0",
                "img00002,1,Canon CR,48,1,2,1,1,1,3",
                "img00003,2,NIKON NF5050,18,2,1,0,0,0,2",
            ),
            "1.0.1/LICENSE.txt": "terms",
        },
        images=3,
        patients=2,
        eyes={"right": 2, "left": 1},
        splits={"": 3},
        devices={"Canon CR": 2, "Nikon NF-505 camera": 1},
        modalities={"fundus": 3},
        skipped={TABLE: 1, OTHER: 1},
        labelled=(3,),
    ),
    "ddr": Layout(
        files={
            "DDR-dataset/DR_grading/train/007-0004-000.jpg": 1,
            "DDR-dataset/DR_grading/valid/007-0010-000.jpg": 2,
            "DDR-dataset/DR_grading/test/007-0020-000.jpg": 3,
            "DDR-dataset/DR_grading/train.txt": "007-0004-000.jpg 0\n",
            "DDR-dataset/lesion_segmentation/test/image/007-0004-000.jpg": 1,
            "DDR-dataset/lesion_segmentation/test/label/EX/007-0004-000.jpg": 9,
            "DDR-dataset/lesion_segmentation/valid/segmentation label/EX/007-0010-000.jpg": 8,
            "DDR-dataset/lesion_detection/train/007-0004-000.xml": "<annotation/>",
        },
        images=3,
        patients=0,
        eyes={"unknown": 3},
        splits={"test|train": 1, "val": 1, "test": 1},
        devices={None: 3},
        modalities={"fundus": 3},
        skipped={"masks of lesions": 2, "boxes and lists of grades": 2},
    ),
    "deepdrid": Layout(
        files={
            "regular_fundus_images/regular-fundus-training/Images/1/1_l1.jpg": 1,
            "regular_fundus_images/regular-fundus-training/Images/1/1_r1.jpg": 2,
            "regular_fundus_images/regular-fundus-training/regular-fundus-training.csv": _csv(
                "patient_id,image_id,image_path,Overall quality,left_eye_DR_Level,right_eye_DR_Level,"
                "patient_DR_Level",
                "1,1_l1,\\regular-fundus-training\\1\\1_l1.jpg,1,2,,2",
                "1,1_r1,\\regular-fundus-training\\1\\1_r1.jpg,0,,0,1",
            ),
            "regular_fundus_images/regular-fundus-validation/Images/265/265_r2.jpg": 3,
            "regular_fundus_images/Online-Challenge1&2-Evaluation/Images/347/347_l1.jpg": 4,
            "regular_fundus_images/Online-Challenge1&2-Evaluation/Challenge1_upload.csv": _csv(
                "image_id", "347_l1"
            ),
            "ultra-widefield_images/ultra-widefield-training/Images/1/1_l2.jpg": 5,
        },
        images=5,
        patients=4,
        eyes={"left": 3, "right": 2},
        splits={"train": 3, "val": 1, "test": 1},
        devices={None: 5},
        modalities={"fundus": 5},
        skipped={TABLE: 1, OTHER: 1},
        labelled=(2,),
    ),
    "eyepacs": Layout(
        files={
            "train/10_left.jpeg": 1,
            "train/10_right.jpeg": 2,
            "train/13_left.jpeg": 3,
            "test/1_left.jpeg": 4,
            "sample/10_left.jpeg": 1,
            "trainLabels.csv": _csv("image,level", "10_left,0", "10_right,2", "13_left,4"),
        },
        images=4,
        patients=3,
        eyes={"left": 3, "right": 1},
        splits={"train": 3, "test": 1},
        devices={None: 4},
        modalities={"fundus": 4},
        skipped={TABLE: 1, "repeats the training set": 1},
        labelled=(3,),
    ),
    "fives": Layout(
        files={
            "FIVES A Fundus Image Dataset/train/Original/1_A.png": 1,
            "FIVES A Fundus Image Dataset/train/Ground truth/1_A.png": 2,
            "FIVES A Fundus Image Dataset/test/Original/1_A.png": 3,
            "FIVES A Fundus Image Dataset/test/Ground truth/1_A.png": 4,
            "FIVES A Fundus Image Dataset/Quality Assessment.xlsx": "x",
        },
        images=2,
        patients=0,
        eyes={"unknown": 2},
        splits={"train": 1, "test": 1},
        devices={"Topcon TRC-NW8": 2},
        modalities={"fundus": 2},
        skipped={"masks of vessels": 2, "a table of quality": 1},
    ),
    "gamma": Layout(
        files={
            "Glaucoma_grading/training/multi-modality_images/0001/0001.jpg": 1,
            "Glaucoma_grading/training/multi-modality_images/0001/0001/0_image.jpg": 2,
            "Glaucoma_grading/training/multi-modality_images/0001/0001/1_image.jpg": 3,
            "Glaucoma_grading/training/glaucoma_grading_training_GT.xlsx": "x",
            "Glaucoma_grading/testing/multi-modality_images/0001/0001.jpg": 4,
            "Disc_Cup_Fovea/training/Disc_Cup_Mask/0001.png": 5,
        },
        images=4,
        patients=2,
        eyes={"unknown": 4},
        splits={"train": 3, "test": 1},
        devices={None: 2, "Topcon DRI OCT Triton": 2},
        modalities={"fundus": 2, "oct": 2},
        skipped={"masks and raw volumes": 1, OTHER: 1},
    ),
    "hygd": Layout(
        files={
            "Images/0_0.jpg": 1,
            "Images/1_0.jpg": 2,
            "Images/1_1.jpg": 3,
            "Images/2_0.jpg": 1,
            "Labels.csv": _csv(
                "Image Name,Patient,Label,Quality Score,",
                "0_0.jpg,0,GON+,6.18,",
                "1_0.jpg,1,GON-,5.31,",
                "1_1.jpg,1,GON-,4.37,",
                "2_0.jpg,2,GON+,3.51,",
            ),
            "LICENSE.txt": "terms",
        },
        images=3,
        patients=3,
        eyes={"unknown": 3},
        splits={"": 3},
        devices={"Topcon DRI OCT Triton": 3},
        modalities={"fundus": 3},
        skipped={TABLE: 1, "licences and texts": 1},
        labelled=(3,),
    ),
    "idrid": Layout(
        files={
            "A. Segmentation/1. Original Images/a. Training Set/IDRiD_01.jpg": 1,
            "A. Segmentation/2. All Segmentation Groundtruths/a. Training Set/IDRiD_01_MA.tif": 2,
            "B. Disease Grading/1. Original Images/a. Training Set/IDRiD_001.jpg": 1,
            "B. Disease Grading/1. Original Images/a. Training Set/IDRiD_002.jpg": 3,
            "B. Disease Grading/1. Original Images/b. Testing Set/IDRiD_001.jpg": 4,
            "B. Disease Grading/2. Groundtruths/a. IDRiD_Disease Grading_Training Labels.csv": _csv(
                "Image name,Retinopathy grade,Risk of macular edema ,,", "IDRiD_001,3,2,,", "IDRiD_002,0,0,,"
            ),
            "CC-BY-4.0.txt": "licence",
        },
        images=3,
        patients=0,
        eyes={"unknown": 3},
        splits={"train": 2, "test": 1},
        devices={None: 3},
        modalities={"fundus": 3},
        skipped={"segmentations and tables": 1, TABLE: 1, "licences and tables": 1},
        labelled=(2,),
    ),
    "mbrset": Layout(
        files={
            "mbrset/1.0/images/1.1.jpg": 1,
            "mbrset/1.0/images/1.2.jpg": 2,
            "mbrset/1.0/images/2.1.jpg": 3,
            "mbrset/1.0/labels_mbrset.csv": _csv(
                "patient,age,sex,file,laterality,final_icdr,final_edema",
                "1,60,0,1.1.jpg,right,0,no",
                "1,60,0,1.2.jpg,left,2,yes",
                "2,70,1,2.1.jpg,right,4,no",
            ),
        },
        images=3,
        patients=2,
        eyes={"right": 2, "left": 1},
        splits={"": 3},
        devices={"Phelcom Eyer": 3},
        modalities={"fundus": 3},
        skipped={TABLE: 1},
        labelled=(3,),
    ),
    "messidor2": Layout(
        files={
            "IMAGES/20051020_43808_0100_PP.png": 1,
            "IMAGES/20051020_43832_0100_PP.png": 2,
            "IMAGES/IM000001.JPG": 3,
            "IMAGES/IM000002.JPG": 4,
            "messidor-2.csv": _csv(
                "left;right",
                "20051020_43808_0100_PP.png;20051020_43832_0100_PP.png",
                "IM000001.jpg;IM000002.jpg",
            ),
            "messidor_data.csv": _csv(
                "image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable",
                "20051020_43808_0100_PP.png,0,0,1",
                "20051020_43832_0100_PP.png,2,1,1",
                "IM000001.jpg,,,0",
                "IM000002.jpg,1,0,1",
            ),
        },
        images=4,
        patients=2,
        eyes={"left": 2, "right": 2},
        splits={"": 4},
        devices={"Topcon TRC NW6": 4},
        modalities={"fundus": 4},
        skipped={TABLE: 2},
        labelled=(3,),
    ),
    "oct2017": Layout(
        files={
            "OCT2017 /train/CNV/CNV-1016042-1.jpeg": 1,
            "OCT2017 /train/CNV/CNV-1016042-2.jpeg": 2,
            "OCT2017 /train/DRUSEN/DRUSEN-1016042-1.jpeg": 3,
            "OCT2017 /val/NORMAL/NORMAL-4872585-1.jpeg": 4,
            "OCT2017 /test/DME/DME-1081406-1.jpeg": 5,
            "__MACOSX/OCT2017 /train/CNV/._CNV-1016042-1.jpeg": "x",
        },
        images=5,
        patients=3,
        eyes={"unknown": 5},
        splits={"train": 3, "val": 1, "test": 1},
        devices={"Heidelberg Spectralis": 5},
        modalities={"oct": 5},
        skipped={SYSTEM: 1},
    ),
    "octdl": Layout(
        files={
            "OCTDL/AMD/amd_1047099_1.jpg": 1,
            "OCTDL/DME/dme_1000001_1.jpg": 2,
            "OCTDL/NO/no_1000002_1.jpg": 3,
            "OCTDL_labels.csv": _csv(
                "file_name,disease,subcategory,condition,patient_id,eye,sex,year,image_width,image_height",
                "amd_1047099_1,AMD,early,drusen,1047099,OD,F,65,300,200",
                "dme_1000001_1,DME,,,1000001,OS,M,65,300,200",
                "no_1000002_1,NO,,,1000001,OD,M,65,300,200",
            ),
        },
        images=3,
        patients=2,
        eyes={"right": 2, "left": 1},
        splits={"": 3},
        devices={"Optovue Avanti RTVue XR": 3},
        modalities={"oct": 3},
        skipped={TABLE: 1},
        labelled=(3,),
    ),
    "octid": Layout(
        files={
            "AMRD/AMRD1.jpeg": 1,
            "NORMAL/NORMAL1.jpeg": 2,
            "MH/MH1.jpeg": 3,
            "segmentation/NORMAL1.png": 4,
        },
        images=3,
        patients=0,
        eyes={"unknown": 3},
        splits={"": 3},
        devices={"Zeiss Cirrus HD-OCT": 3},
        modalities={"oct": 3},
        skipped={"segmentations": 1},
    ),
    "odir5k": Layout(
        files={
            "ODIR-5K/Training Images/0_left.jpg": 1,
            "ODIR-5K/Training Images/0_right.jpg": 2,
            "ODIR-5K/Training Images/1_left.jpg": 3,
            "ODIR-5K/Testing Images/937_left.jpg": 4,
            "ODIR-5K/annotations.csv": _csv(
                "ID,Patient Age,Left-Fundus,Right-Fundus,Left-Diagnostic Keywords,N,D,G,C,A,H,M,O",
                "0,69,0_left.jpg,0_right.jpg,cataract,0,0,1,1,0,0,1,0",
                "1,57,1_left.jpg,1_right.jpg,normal fundus,1,1,0,0,1,0,0,0",
            ),
            "full_df.csv": _csv(
                "ID,Left-Fundus,Right-Fundus,labels,filename",
                "0,0_left.jpg,0_right.jpg,['G'],0_right.jpg",
                "0,0_left.jpg,0_right.jpg,['N'],0_left.jpg",
                "1,1_left.jpg,1_right.jpg,['D'],1_left.jpg",
            ),
            "preprocessed_images/0_left.jpg": 5,
        },
        images=4,
        patients=3,
        eyes={"left": 3, "right": 1},
        splits={"train": 3, "test": 1},
        devices={None: 4},
        modalities={"fundus": 4},
        skipped={TABLE: 2, "the training set again, scaled": 1},
        labelled=(2, 3),
    ),
    "pacs": Layout(
        files={
            "DICOM/PA000001/ST000001/SE000001/IM000001": dicom(1, "4711", "R", "20190203"),
            "DICOM/PA000001/ST000001/SE000001/IM000002": dicom(2, "4711", "L", "20190203"),
            "DICOM/PA000001/ST000002/SE000001/IM000001": dicom(3, "4711", "R", "20200203"),
            "DICOM/PA000002/ST000001/SE000001/IM000001": dicom(4, "4712", "L", "20190203"),
            "DICOMDIR": "x",
            "README.txt": "x",
            "viewer/start.exe": "x",
        },
        images=4,
        patients=2,
        eyes={"right": 2, "left": 2},
        splits={"": 4},
        devices={"Topcon TRC-NW8": 4},
        modalities={"fundus": 4},
        skipped={"directory of the medium": 1, "reports and texts": 1, "a viewer on the medium": 1},
        visits={0: 3, 1: 1},
    ),
    "palm": Layout(
        files={
            "PALM-Training400/PALM-Training400/H0001.jpg": 1,
            "PALM-Training400/PALM-Training400/N0001.jpg": 2,
            "PALM-Training400/PALM-Training400-Annotation-D&F/Disc_Masks/H0001.bmp": 3,
            "PALM-Validation400/V0001.jpg": 4,
            "PALM-Validation400/V0002.jpg": 5,
            "PALM-Validation-GT/PM_Label_and_Fovea_Location.csv": _csv(
                ",imgName,Label,Fovea_X,Fovea_Y", "1,V0001.jpg,1,10,10", "2,V0002.jpg,0,10,10"
            ),
            "PALM-Testing400-Images/T0001.jpg": 6,
        },
        images=5,
        patients=0,
        eyes={"unknown": 5},
        splits={"train": 2, "val": 2, "test": 1},
        devices={"Zeiss Visucam 500": 5},
        modalities={"fundus": 5},
        skipped={"masks of disc and lesions": 1, TABLE: 1},
        labelled=(2,),
    ),
    "papila": Layout(
        files={
            "PAPILA/FundusImages/RET002OD.jpg": 1,
            "PAPILA/FundusImages/RET002OS.jpg": 2,
            "PAPILA/FundusImages/RET004OD.jpg": 3,
            "PAPILA/ClinicalData/patient_data_od.xlsx": "x",
            "PAPILA/ExpertsSegmentations/ImagesWithContours/RET002OD.jpg": 4,
            "PAPILA/HelpCode/read.py": "pass",
        },
        images=3,
        patients=2,
        eyes={"right": 2, "left": 1},
        splits={"": 3},
        devices={"Topcon TRC-NW400": 3},
        modalities={"fundus": 3},
        skipped={"contours of disc and cup": 1, "code and clinical tables": 2},
    ),
    "plain": Layout(
        files={
            "ward/a.jpg": 1,
            "ward/deep/b.png": 2,
            "ward/.DS_Store": "x",
            "ward/thumbnails/a.jpg": 3,
            "list.csv": _csv("file,grade", "a.jpg,1"),
        },
        images=2,
        patients=0,
        eyes={"unknown": 2},
        splits={"": 2},
        devices={None: 2},
        modalities={"fundus": 2},
        skipped={SYSTEM: 1, "previews": 1, "tables and texts": 1},
    ),
    "refuge": Layout(
        files={
            "Training400/Glaucoma/g0001.jpg": 1,
            "Training400/Non-Glaucoma/n0001.jpg": 2,
            "Annotation-Training400/Disc_Cup_Masks/Glaucoma/g0001.bmp": 3,
            "REFUGE-Validation400/V0001.jpg": 4,
            "REFUGE-Validation400-GT/Disc_Cup_Masks/V0001.bmp": 5,
            "Test400/T0001.jpg": 6,
            "Test400/T0002.jpg": 7,
            "REFUGE2/Train/REFUGE1-val/REFUGE-Validation400/V0002.jpg": 8,
            "REFUGE2/Test/refuge2-test/T0801.jpg": 9,
            "REFUGE-Test-GT/Glaucoma_label_and_Fovea_location.csv": _csv(
                "ID,ImgName,Label(Glaucoma=1),Fovea_X,Fovea_Y", "1,T0001.jpg,1,10,10", "2,T0002.jpg,0,10,10"
            ),
        },
        images=7,
        patients=0,
        eyes={"unknown": 7},
        splits={"train": 2, "val": 2, "test": 3},
        devices={"Zeiss Visucam 500": 2, "Canon CR-2": 4, None: 1},
        modalities={"fundus": 7},
        skipped={"masks of disc and cup": 2, TABLE: 1},
        labelled=(2,),
    ),
    "rfmid": Layout(
        files={
            "1. Original Images/a. Training Set/1.png": 1,
            "1. Original Images/a. Training Set/2.png": 4,
            "1. Original Images/b. Validation Set/1.png": 2,
            "1. Original Images/c. Testing Set/1.png": 3,
            "2. Groundtruths/a. RFMiD_Training_Labels.csv": _csv(
                "ID,Disease_Risk,DR,ARMD", "1,1,1,1", "2,0,0,0"
            ),
            "2. Groundtruths/c. RFMiD_Testing_Labels.csv": _csv("ID,Disease_Risk,DR,ARMD", "1,1,1,1"),
        },
        images=4,
        patients=0,
        eyes={"unknown": 4},
        splits={"train": 2, "val": 1, "test": 1},
        devices={None: 4},
        modalities={"fundus": 4},
        skipped={TABLE: 2},
        labelled=(2, 1),
    ),
    "ukbiobank": Layout(
        files={
            "Bulk/Fundus (left)/10/1000071_21015_0_0.png": 1,
            "Bulk/Fundus (left)/10/1000071_21015_1_0.png": 2,
            "Bulk/Fundus (right)/10/1000071_21016_0_0.png": 3,
            "Bulk/Fundus (right)/10/1000083_21016_0_0.png": 4,
            "Bulk/Fundus (left)/10/1000071_21015_0_0_bin_seg.png": 5,
            "Bulk/OCT (left)/10/1000071_21017_0_0.zip/slice_12.png": 6,
            "Bulk/bulk.log": "x",
        },
        images=5,
        patients=2,
        eyes={"left": 3, "right": 2},
        splits={"": 5},
        devices={"Topcon 3D OCT-1000 Mark II": 5},
        modalities={"fundus": 4, "oct": 1},
        skipped={"segmentations by others": 1, OTHER: 1},
        visits={0: 4, 1: 1},
    ),
}
