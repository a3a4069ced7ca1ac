package task

import (
	"fmt"
	"strings"
)

// raw sums up any outputs. Of a small tensor it gives every value, of a large one
// the largest value and its place. An Item's Label is the tensor's name and
// shape, its ID the place of the value, its Score the value in real numbers.
type raw struct {
	labels  []string
	readers []reader // size 0: a type without numbers
	top     int
}

// small is how many values a tensor may have to be given whole.
const small = 16

func makeRaw(m model) (Decoder, string, error) {
	d := &raw{top: orElse(m.Top, 64)}
	for i, t := range m.info.Outputs {
		r, _ := newReader(t)
		d.readers = append(d.readers, r)
		name := orElse(t.Name, fmt.Sprintf("output %d", i))
		shape := strings.ReplaceAll(strings.Trim(fmt.Sprint(t.Shape), "[]"), " ", "×")
		d.labels = append(d.labels, fmt.Sprintf("%.100s [%s] %s", name, shape, t.Type))
	}
	return d, fmt.Sprintf("%d outputs as numbers", len(d.labels)), nil
}

func (d *raw) Decode(o Outputs, buf int, r *Result) error {
	r.Kind, r.Items = Raw, r.Items[:0]
	for i, x := range d.readers {
		if x.size == 0 {
			d.add(r, i, 0, 0)
			continue
		}
		data := o.Output(buf, i).Data
		n := len(data) / x.size
		if n <= small {
			for k := range n {
				d.add(r, i, k, x.real(data, k))
			}
			continue
		}
		best, at := x.real(data, 0), 0
		for k := 1; k < n; k++ {
			if v := x.real(data, k); v > best || best != best {
				best, at = v, k
			}
		}
		d.add(r, i, at, best)
	}
	return nil
}

// add leaves out what JSON cannot say.
func (d *raw) add(r *Result, output, place int, v float64) {
	if s := float32(v); s-s == 0 && len(r.Items) < d.top {
		r.Items = append(r.Items, Item{Label: d.labels[output], ID: place, Score: s})
	}
}
