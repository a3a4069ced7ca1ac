package modelfile

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf8"

	"github.com/covey-edge/covey/hal"
)

// Limits of the ZIP archive behind a model.
const (
	maxFiles     = 32
	maxFileBytes = 4 << 20 // of all files together, unpacked
	maxRatio     = 100     // unpacked to packed
)

// zipEnd is the length of the record that ends a ZIP archive without a comment,
// as every tool that packs files behind a model writes it.
const zipEnd = 22

// readTail reads the files of the ZIP archive that ends the file; nil, nil when
// there is none.
func readTail(r io.ReaderAt, size int64) ([]File, error) {
	start, err := findZip(r, size)
	if err != nil || start < 0 {
		return nil, err
	}
	z, err := zip.NewReader(io.NewSectionReader(r, start, size-start), size-start)
	if err != nil {
		return nil, zipError("%v", err)
	}
	var files []File
	left := int64(maxFileBytes)
	for _, f := range z.File {
		if f.Mode().IsDir() {
			continue
		}
		data, err := unpack(f, left)
		if err != nil {
			return nil, err
		}
		left -= int64(len(data))
		files = append(files, File{Name: f.Name, Data: data})
	}
	return files, nil
}

// findZip returns where the archive begins, -1 when there is none. It reads the
// end record itself, because zip.NewReader would read a directory of any length
// into memory before it could be refused.
func findZip(r io.ReaderAt, size int64) (int64, error) {
	var b [zipEnd]byte
	if size < zipEnd {
		return -1, nil
	}
	if _, err := r.ReadAt(b[:], size-zipEnd); err != nil && err != io.EOF {
		return -1, fmt.Errorf("read the end of the model file: %w", err)
	}
	if !bytes.HasPrefix(b[:], []byte("PK\x05\x06")) {
		return -1, nil
	}
	count := int64(binary.LittleEndian.Uint16(b[10:]))
	length := int64(binary.LittleEndian.Uint32(b[12:]))
	offset := int64(binary.LittleEndian.Uint32(b[16:]))
	start := size - zipEnd - length - offset
	switch {
	case count > maxFiles, length > maxFiles*1024:
		return -1, zipError("%d files with a directory of %d bytes, at most %d files are allowed", count, length, maxFiles)
	case start < 0:
		return -1, zipError("its directory is not in the file")
	}
	// start is 0 where offsets count from the begin of the model: Python's zipfile
	// writes them so when it appends.
	return start, nil
}

func unpack(f *zip.File, left int64) ([]byte, error) {
	switch {
	case !fs.ValidPath(f.Name) || strings.Contains(f.Name, `\`) || !utf8.ValidString(f.Name):
		return nil, zipError("file name %.40q", f.Name)
	case !f.Mode().IsRegular():
		return nil, zipError("%q is not a plain file", f.Name)
	case f.UncompressedSize64 > uint64(left):
		return nil, zipError("more than %d MiB of files", maxFileBytes>>20)
	case f.UncompressedSize64 > maxRatio*max(f.CompressedSize64, 1):
		return nil, zipError("%q is packed more than 1:%d", f.Name, maxRatio)
	}
	r, err := f.Open()
	if err != nil {
		return nil, zipError("%q: %v", f.Name, err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, left+1))
	switch {
	case err != nil:
		return nil, zipError("%q: %v", f.Name, err)
	case int64(len(data)) > left:
		return nil, zipError("more than %d MiB of files", maxFileBytes>>20)
	}
	return data, nil
}

func zipError(format string, args ...any) error {
	return &hal.Error{Code: hal.CodeZip, Text: "archive behind the model: " + fmt.Sprintf(format, args...) + "; pack the label files again"}
}
