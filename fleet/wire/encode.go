package wire

import (
	"math"
	"strconv"
	"unicode/utf8"
)

// AppendResult appends r as one JSON object and returns the longer slice. It says
// what encoding/json would say of r, in UTC and with seq second, and allocates
// nothing when dst has room. Numbers that JSON cannot hold become 0, bytes that are
// not UTF-8 become U+FFFD, nil Items become [].
func AppendResult(dst []byte, r *Result) []byte {
	dst = append(dst, `{"v":`...)
	dst = strconv.AppendInt(dst, int64(r.V), 10)
	dst = append(dst, `,"seq":`...)
	dst = strconv.AppendUint(dst, r.Seq, 10)
	if r.Late {
		dst = append(dst, `,"late":true`...)
	}
	return appendResultRest(append(dst, ','), r)
}

// AppendResultBody is AppendResult without what is known only when it is sent (seq,
// late), which AppendResultHead says.
func AppendResultBody(dst []byte, r *Result) []byte {
	dst = append(dst, `{"v":`...)
	dst = strconv.AppendInt(dst, int64(r.V), 10)
	return appendResultRest(append(dst, ','), r)
}

func appendResultRest(dst []byte, r *Result) []byte {
	dst = appendString(append(dst, `"id":`...), r.ID)
	dst = strconv.AppendUint(append(dst, `,"sid":`...), r.SID, 10)
	dst = appendTime(append(dst, `,"ts":`...), r.TS)
	dst = appendString(append(dst, `,"pipe":`...), r.Pipe)
	dst = strconv.AppendUint(append(dst, `,"frame":`...), r.Frame, 10)
	if r.Name != "" {
		dst = appendString(append(dst, `,"name":`...), r.Name)
	}
	dst = appendString(append(dst, `,"model":{"name":`...), r.Model.Name)
	dst = appendString(append(dst, `,"ver":`...), r.Model.Ver)
	dst = appendString(append(dst, `,"sha":`...), r.Model.SHA)
	dst = appendString(append(dst, `},"accel":`...), r.Accel)
	dst = appendFloat(append(dst, `,"lat_ms":{"pre":`...), r.LatMS.Pre, 64)
	dst = appendFloat(append(dst, `,"inv":`...), r.LatMS.Inv, 64)
	dst = appendFloat(append(dst, `,"post":`...), r.LatMS.Post, 64)
	dst = appendString(append(dst, `},"kind":`...), r.Kind)
	dst = append(dst, `,"items":[`...)
	for i := range r.Items {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendItem(dst, &r.Items[i])
	}
	return append(dst, `]}`...)
}

func appendItem(dst []byte, it *Item) []byte {
	dst = appendString(append(dst, `{"label":`...), it.Label)
	dst = strconv.AppendInt(append(dst, `,"id":`...), int64(it.ID), 10)
	dst = appendFloat(append(dst, `,"score":`...), float64(it.Score), 32)
	if it.Box != nil {
		dst = appendBox(dst, it.Box)
	}
	if it.Angle != 0 {
		dst = appendFloat(append(dst, `,"angle":`...), float64(it.Angle), 32)
	}
	if len(it.Points) > 0 {
		dst = append(dst, `,"points":[`...)
		for i := range it.Points {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendFloats(dst, it.Points[i][:])
		}
		dst = append(dst, ']')
	}
	if it.Area != 0 {
		dst = appendFloat(append(dst, `,"area":`...), float64(it.Area), 32)
	}
	if m := it.Mask; m != nil {
		dst = appendFloats(append(dst, `,"mask":{"box":`...), m.Box[:])
		dst = strconv.AppendInt(append(dst, `,"size":[`...), int64(m.Size[0]), 10)
		dst = strconv.AppendInt(append(dst, ','), int64(m.Size[1]), 10)
		dst = append(appendString(append(dst, `],"counts":`...), m.Counts), '}')
	}
	return append(dst, '}')
}

func appendFloats(dst []byte, v []float32) []byte {
	dst = append(dst, '[')
	for i, f := range v {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendFloat(dst, float64(f), 32)
	}
	return append(dst, ']')
}

func appendFloat(dst []byte, f float64, bits int) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(dst, '0')
	}
	format := byte('f')
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, f, format, -1, bits)
}

const hexDigits = "0123456789abcdef"

func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				dst = append(dst, s[start:i]...)
				dst = append(dst, "\ufffd"...)
				start = i + 1
			}
			i += n
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' && c != 0x7f {
			i++
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}
