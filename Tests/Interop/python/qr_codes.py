"""Reads the QR codes of a page of invitations with an independent decoder, one text a line.

usage: qr_codes.py PAGE.html
"""

import re
import sys

import zxingcpp

SCALE = 4

for picture in re.findall(r"<svg.*?</svg>", open(sys.argv[1], encoding="utf-8").read()):
    side = int(re.search(r'viewBox="0 0 (\d+)', picture).group(1))
    width = side * SCALE
    pixels = bytearray(b"\xff" * (width * width))
    for column, row in re.findall(r"M(\d+) (\d+)h1v1h-1z", picture):
        for y in range(SCALE):
            start = (int(row) * SCALE + y) * width + int(column) * SCALE
            pixels[start : start + SCALE] = b"\x00" * SCALE
    # Of this kind alone: chance patterns in it may look like a bar code of another.
    codes = zxingcpp.read_barcodes(
        memoryview(pixels).cast("B", (width, width)), formats=zxingcpp.BarcodeFormat.QRCode
    )
    print(codes[0].text if len(codes) == 1 else f"{len(codes)} codes")
