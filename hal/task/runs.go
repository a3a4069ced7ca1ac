package task

// AppendRuns appends the lengths of runs, which say what of a mask is out of an item and
// in it in turns, beginning with out, column after column, as COCO's tools write them
// (rleToString of pycocotools' maskApi.c): each as its difference to the one two before,
// in groups of five bits, lowest first, as characters from '0' on.
func AppendRuns(dst []byte, lengths []int32) []byte {
	for i, n := range lengths {
		x := int64(n)
		if i > 2 {
			x -= int64(lengths[i-2])
		}
		for more := true; more; {
			c := byte(x & 0x1f)
			x >>= 5
			if more = x != 0 && c&0x10 == 0 || x != -1 && c&0x10 != 0; more {
				c |= 0x20
			}
			dst = append(dst, c+48)
		}
	}
	return dst
}
