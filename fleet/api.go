package fleet

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/covey-edge/covey/fleet/internal/api"
	"github.com/covey-edge/covey/fleet/internal/broker"
	"github.com/covey-edge/covey/fleet/internal/rollout"
	"github.com/covey-edge/covey/fleet/internal/store"
)

// openAPI makes what HTTPS answers.
func (s *Server) openAPI() (*api.API, error) {
	metrics := prometheus.NewRegistry()
	if err := metrics.Register(collector{s.broker, s.db}); err != nil {
		return nil, err
	}
	return api.New(api.Config{
		Version: s.cfg.Version, URL: s.ends.API, MQTT: s.ends.MQTT, Root: s.cfg.Root,
		Auth: s.auth, Registry: s.reg, Rollouts: s.rollout, Blobs: s.blobs,
		Catalogue: rollout.NewCatalogue(s.db, s.blobs),
		KickHome:  s.broker.KickHome, Metrics: metrics, Log: room(s.cfg.Log, "api"),
		Ready: func() error { return s.db.View(func(*store.Tx) error { return nil }) },
	})
}

// A collector counts what the broker and the store do, when it is asked.
type collector struct {
	broker *broker.Broker
	db     *store.Store
}

// A figure is one metric of the collector.
type figure struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(broker.Stats) float64
}

func figures() []figure {
	gauge := func(name, help string, of func(broker.Stats) float64) figure {
		return figure{prometheus.NewDesc(name, help, nil, nil), prometheus.GaugeValue, of}
	}
	counter := func(name, help string, of func(broker.Stats) float64) figure {
		return figure{prometheus.NewDesc(name, help, nil, nil), prometheus.CounterValue, of}
	}
	return []figure{
		gauge("covey_mqtt_connections", "Connections to the broker.", func(s broker.Stats) float64 { return float64(s.Clients) }),
		gauge("covey_mqtt_retained", "Retained messages.", func(s broker.Stats) float64 { return float64(s.Retained) }),
		counter("covey_mqtt_received_total", "Messages that clients sent.", func(s broker.Stats) float64 { return float64(s.Received) }),
		counter("covey_mqtt_sent_total", "Messages sent to clients.", func(s broker.Stats) float64 { return float64(s.Sent) }),
		counter("covey_mqtt_received_bytes_total", "Bytes that clients sent.", func(s broker.Stats) float64 { return float64(s.ReceivedBytes) }),
		counter("covey_mqtt_sent_bytes_total", "Bytes sent to clients.", func(s broker.Stats) float64 { return float64(s.SentBytes) }),
		counter("covey_mqtt_dropped_total", "Messages dropped for clients that were behind.", func(s broker.Stats) float64 { return float64(s.Dropped) }),
		counter("covey_mqtt_refused_total", "Connections, reads and writes that were refused.", func(s broker.Stats) float64 { return float64(s.Refused) }),
	}
}

var descStore = prometheus.NewDesc("covey_store_bytes", "Size of the database.", nil, nil)

// Describe names the metrics.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range figures() {
		ch <- f.desc
	}
	ch <- descStore
}

// Collect reads the broker and the store.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.broker.Stats()
	for _, f := range figures() {
		ch <- prometheus.MustNewConstMetric(f.desc, f.kind, f.of(s))
	}
	ch <- prometheus.MustNewConstMetric(descStore, prometheus.GaugeValue, float64(c.db.Size()))
}
