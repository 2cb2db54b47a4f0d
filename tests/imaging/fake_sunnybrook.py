"""Writes miniature Sunnybrook cases: DICOM slices and contours under real names, and deliberate oddities.

`python tests/imaging/fake_sunnybrook.py DIR` writes three sound cases and one of each oddity to look at.

As in the real case SCD0000101, rows run head-to-feet, instance numbers count 20 phases fastest, trigger times differ a
little between slices, UIDs have components with a leading zero, and the systole has inner contours only on request.
"""

import sys
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, JPEGLSLossless, MRImageStorage

ROWS, COLUMNS = 40, 48
PIXEL_MM = (1.5, 1.25)  # row, column
STEP_MM = 10.0
PHASES, ED, ES = 20, 18, 7  # phases from 0
PLACES = (2, 3, 4)  # from base to apex
DIRECTIONS = np.array([[-0.104592, 0.346381, -0.932245], [-0.733192, -0.660188, -0.163037]])  # feet; right and front
CENTRE = (26, 18)  # of the left ventricle: x, y
RADII = {ED: (7.03, 11.03), ES: (4.03, 9.03)}  # cavity, epicardium; no pixel centre is near them
UID = "2.16.124.113543.6006.99.0"  # what follows makes a component with a leading zero: invalid, and common


def number_of(place, phase):
    return place * PHASES + phase + 1


def position_mm(place):
    """LPS; the normal of DIRECTIONS points to the base."""
    return np.array([176.111, 22.2895, 137.999]) - place * STEP_MM * np.cross(*DIRECTIONS)


def pixels(place, phase):
    """A bright cavity and right ventricle, dark myocardium, and the liver below; three more grey levels a place."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    radius = np.hypot(x - CENTRE[0], y - CENTRE[1])
    image = np.full((ROWS, COLUMNS), 50 + 3 * place)
    image[:, 42:] = 300  # rows end at the feet
    image[30:, 15:36] = 500  # columns end on the patient's right
    cavity, heart = RADII[phase]
    image[radius < heart] = 120
    image[radius < cavity] = 600
    return (image + np.random.default_rng(place).integers(0, 9, image.shape)).astype(np.int16)


def circle(radius, centre=CENTRE):
    """A contour around the middle of a pixel: pixel 0 covers 0 to 1."""
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    return 0.5 + np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], axis=1)


def header(place, phase, patient):
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": f"{UID}{number_of(place, phase)}",
        "SeriesInstanceUID": f"{UID}5.{patient.encode().hex()[-6:]}",
        "Modality": "MR",
        "PatientID": patient,
        "SliceThickness": 8,
        "SpacingBetweenSlices": STEP_MM,
        "TriggerTime": round((phase + 0.5) * (37.5 + 0.4 * place), 3),
        "CardiacNumberOfImages": PHASES,
        "InstanceNumber": number_of(place, phase),
        "ImagePositionPatient": position_mm(place).round(4).tolist(),
        "ImageOrientationPatient": DIRECTIONS.ravel().tolist(),
        "PixelSpacing": list(PIXEL_MM),
    }


def write_dicom(path, data, elements):
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    with disable_value_validation():
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, elements["SOPInstanceUID"]
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        dataset.Rows, dataset.Columns = data.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.PixelData = data.tobytes()
        dataset.save_as(path)


def edit(path, **changes):
    """Change elements of a file; None removes them."""
    with disable_value_validation():
        dataset = dcmread(path)
        for keyword, value in changes.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        dataset.save_as(path)


def write_contour(path, points):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{x:.2f} {y:.2f}\n" for x, y in points))


def write_case(root, case_id, places=PLACES, phases=(ES, ED), inner_only=()):
    for place in places:
        for phase in phases:
            number = number_of(place, phase)
            write_dicom(dicom_path(root, case_id, number), pixels(place, phase), header(place, phase, case_id))
            for wall, radius in zip("io", RADII[phase], strict=True):
                if wall == "i" or phase not in inner_only:
                    write_contour(contour_path(root, case_id, number, wall), circle(radius))
    return root / case_id


def dicom_path(root, case_id, number=59):
    return root / case_id / "dicom" / f"{number}.dcm"


def contour_path(root, case_id, number=59, wall="i"):
    return root / case_id / "contours" / f"IM-0001-{number:04d}-{wall}contour-manual.txt"


def _case(root, case_id, **changes):
    write_case(root, case_id)
    edit(dicom_path(root, case_id), **changes)


def _changed(**changes):
    return lambda root, case_id: _case(root, case_id, **changes)


def _overwritten(content):
    def write(root, case_id):
        write_case(root, case_id)
        dicom_path(root, case_id).write_bytes(content)

    return write


def _contour(points, wall="i"):
    def write(root, case_id):
        write_case(root, case_id)
        write_contour(contour_path(root, case_id, wall=wall), points)

    return write


def _contour_text(content):
    def write(root, case_id):
        write_case(root, case_id)
        contour_path(root, case_id).write_bytes(content)

    return write


def _truncated(root, case_id):
    write_case(root, case_id)
    path = dicom_path(root, case_id)
    path.write_bytes(path.read_bytes()[:-100])


def _compressed(root, case_id):
    write_case(root, case_id)
    path = dicom_path(root, case_id)
    with disable_value_validation():
        dataset = dcmread(path)
        dataset.PixelData = encapsulate([b"\0" * 100])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
        dataset.save_as(path)


def _words_for_time(root, case_id):
    write_case(root, case_id)
    edit(dicom_path(root, case_id), TriggerTime="281.25")
    path = dicom_path(root, case_id)
    path.write_bytes(path.read_bytes().replace(b"281.25", b"28x.25"))


def _other_matrix(root, case_id):
    write_case(root, case_id)
    write_dicom(dicom_path(root, case_id), np.ones((32, 48), np.int16), header(2, ED, case_id))


def _missing_slice(root, case_id):
    write_case(root, case_id, places=(2, 3, 5))


def _no_dicom(root, case_id):
    write_case(root, case_id)
    dicom_path(root, case_id).unlink()


def _number_twice(root, case_id):
    write_case(root, case_id)
    path = dicom_path(root, case_id)
    path.with_name("IM-0004-0059.dcm").write_bytes(path.read_bytes())


def _contour_twice(root, case_id):
    write_case(root, case_id)
    write_contour(root / case_id / "again" / contour_path(root, case_id).name, circle(5))


def _folder_for_a_file(root, case_id):
    write_case(root, case_id)
    dicom_path(root, case_id).unlink()
    dicom_path(root, case_id).mkdir()


def _folder_for_a_contour(root, case_id):
    write_case(root, case_id)
    contour_path(root, case_id).unlink()
    contour_path(root, case_id).mkdir()


def _linked_out(root, case_id):
    write_case(root, case_id)
    outside = root.parent / f"{root.name} {case_id}.dcm"
    dicom_path(root, case_id).rename(outside)
    dicom_path(root, case_id).symlink_to(outside)


def _no_contours(root, case_id):
    write_dicom(dicom_path(root, case_id), pixels(2, ED), header(2, ED, case_id))


def _only_contours(root, case_id):
    write_contour(contour_path(root, case_id), circle(5))


def _empty_folder(root, case_id):
    (root / case_id).mkdir(parents=True)


# oddity: (what writes it, what the reason must say)
ODDITIES = {
    "truncated": (_truncated, r"59.dcm: not a readable DICOM file \(The number of bytes of pixel data is less"),
    "not_dicom": (_overwritten(b"<html>404</html>" * 50), "59.dcm: not a DICOM file"),
    "empty_file": (_overwritten(b""), "59.dcm: not a DICOM file"),
    "folder_for_a_file": (_folder_for_a_file, "59.dcm: cannot be read .Is a directory"),
    "absurd_size": (_changed(Rows=65535, Columns=65535), "59.dcm: announces 65535 x 65535 pixels"),
    "more_pixels_than_stored": (_changed(Rows=5000, Columns=5000), "59.dcm: differs in matrix"),
    "ct": (_changed(Modality="CT"), "59.dcm: modality is CT, not MR"),
    "no_modality": (_changed(Modality=None), "59.dcm: modality is missing, not MR"),
    "frames": (_changed(NumberOfFrames=2), r"59.dcm: is a multi-frame \(enhanced\) MR object"),
    "enhanced": (_changed(SOPClassUID=EnhancedMRImageStorage), "59.dcm: is a multi-frame"),
    "no_pixels": (_changed(PixelData=None), "59.dcm: holds no pixel data"),
    "no_image": (_changed(Rows=None), "59.dcm: holds no image"),
    "colour": (_changed(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "3 values a pixel in RGB are not grey"),
    "palette": (_changed(PhotometricInterpretation="PALETTE COLOR"), "PALETTE COLOR are not greyscale"),
    "compressed": (_compressed, r"59.dcm: its pixels are compressed \(JPEG-LS Lossless Image Compression\)"),
    "rescale_by_zero": (_changed(RescaleSlope=0, RescaleIntercept=0), "59.dcm: RescaleSlope is 0"),
    "rescale_by_nan": (_changed(RescaleSlope="nan"), "59.dcm: RescaleSlope is nan, not a finite number"),
    "no_spacing": (_changed(PixelSpacing=None), "59.dcm: PixelSpacing is missing"),
    "negative_spacing": (_changed(PixelSpacing=[-1.5, 1.25]), "59.dcm: PixelSpacing -1.5 x 1.25 mm is not positive"),
    "zero_spacing": (_changed(PixelSpacing=[1.5, 0]), "59.dcm: PixelSpacing 1.5 x 0 mm is not positive"),
    "nan_spacing": (_changed(PixelSpacing=["nan", "1"]), "59.dcm: PixelSpacing is .nan, 1., not 2 finite numbers"),
    "one_spacing": (_changed(PixelSpacing="1.5"), "59.dcm: PixelSpacing is 1.5, not 2 finite"),
    "other_spacing": (_changed(PixelSpacing=[2, 2]), "differs in pixel spacing"),
    "nan_position": (
        _changed(ImagePositionPatient=["1", "nan", "2"]),
        "59.dcm: ImagePositionPatient is .1, nan, 2., not 3",
    ),
    "no_position": (_changed(ImagePositionPatient=None), "59.dcm: ImagePositionPatient is missing"),
    "words_for_time": (_words_for_time, "59.dcm: TriggerTime is 28x.25, not a finite"),
    "far_position": (_changed(ImagePositionPatient=[1e300, 0, 0]), "ImagePositionPatient .1e.300, 0.0, 0.0. mm is not"),
    "no_orientation": (_changed(ImageOrientationPatient=None), "59.dcm: ImageOrientationPatient is missing"),
    "crooked": (_changed(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "is not two unit vectors at right angles"),
    "other_orientation": (_changed(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]), "differs in orientation"),
    "other_patient": (_changed(PatientID="someone"), r"differs in patient \(PatientID\)"),
    "other_matrix": (_other_matrix, "differs in matrix"),
    "shifted": (
        _changed(ImagePositionPatient=(position_mm(2) + 14 * DIRECTIONS[0]).tolist()),
        "mm off a straight stack from",
    ),
    "missing_slice": (_missing_slice, "lies 20.00 mm from .* where others are 10.00 mm apart: a slice between them"),
    "same_place": (_changed(ImagePositionPatient=position_mm(3).round(4).tolist()), "lies at the place of"),
    "no_dicom": (_no_dicom, "IM-0001-0059-icontour-manual.txt: no DICOM file carries number 59"),
    "number_twice": (_number_twice, "IM-0004-0059.dcm: carries the number of .*59.dcm"),
    "contour_twice": (_contour_twice, "is for the same slice and wall as"),
    "folder_for_a_contour": (_folder_for_a_contour, "0059-icontour-manual.txt: cannot be read .Is a directory"),
    "empty_contour": (_contour_text(b""), "0059-icontour-manual.txt: holds 0 points"),
    "two_points": (_contour(circle(7)[:2]), "0059-icontour-manual.txt: holds 2 points, which enclose nothing"),
    "words": (_contour_text(b"<html>404</html>\n"), "0059-icontour-manual.txt: not a contour with two numbers"),
    "binary": (_contour_text(b"\xff\x00\xfe" * 99), "0059-icontour-manual.txt: not a contour with two numbers"),
    "three_columns": (_contour_text(b"1 2 3\n" * 9), "0059-icontour-manual.txt: not a contour with two finite"),
    "nan_point": (_contour_text(b"1 2\n9 2\n9 nan\n"), "0059-icontour-manual.txt: not a contour with two finite"),
    "no_area": (_contour([(9.1, 9.1), (9.2, 9.1), (9.2, 9.2)]), "its 3 points enclose no pixel"),
    "outside": (_contour(circle(9, (44, 20))), r"point 53.5 20.5 lies outside the image of 48 x 40 pixels \(x, y\)"),
    "inner_beyond_outer": (_contour(circle(15)), "of ... pixels of the cavity lie outside the outer contour IM-0001-"),
    "no_ring": (_contour(circle(3), "o"), "pixels of the cavity lie outside the outer contour"),
    "linked_out": (_linked_out, "59.dcm: leads out of the folder .* by a symbolic link"),
    "no_contours": (_no_contours, "holds no .-icontour-manual.txt"),
    "only_contours": (_only_contours, "holds no .dcm file"),
    "empty_folder": (_empty_folder, "holds no .-icontour-manual.txt"),
}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for sound in ("SCD0000101", "SCD0000201", "SCD0000301"):
        write_case(target, sound)
    for position, (write_odd, _) in enumerate(ODDITIES.values()):
        write_odd(target, f"SCD{9000 + position:05d}01")
