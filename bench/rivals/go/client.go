// The Go client, amqp091-go, used as in its documentation: connections of their own for consuming and publishing, a
// loop over the channel of deliveries, and deferred confirmations.
//
// https://pkg.go.dev/github.com/rabbitmq/amqp091-go#hdr-Use_Case
// https://pkg.go.dev/github.com/rabbitmq/amqp091-go#Channel.PublishWithDeferredConfirmWithContext
//
// With the argument "json" a consumer decodes the bodies; without it a body stays bytes.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func main() {
	switch work := os.Getenv("BENCH_WORK"); work {
	case "consume":
		consume(len(os.Args) > 1 && os.Args[1] == "json")
	case "relay":
		relay()
	case "publish":
		publish()
	default:
		log.Fatalf("unknown work %q", work)
	}
}

func channel() *amqp.Channel {
	connection, err := amqp.Dial(url)
	check(err)
	channel, err := connection.Channel()
	check(err)
	return channel
}

func deliveries() <-chan amqp.Delivery {
	channel := channel()
	if prefetch > 0 {
		check(channel.Qos(prefetch, 0, false))
	}
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	check(err)
	return deliveries
}

// An ack is written before the message counts, because SIGTERM then ends the process at once.
func consume(decodes bool) {
	var watch stopwatch
	count := 0
	for delivery := range deliveries() {
		if count++; count == 1 {
			watch = start()
		}
		if decodes {
			var decoded order
			check(json.Unmarshal(delivery.Body, &decoded))
		}
		check(delivery.Ack(false))
		if count == messages {
			watch.report(nil)
		}
	}
}

// A message is published as soon as it comes; a goroutine waits for its confirm and acks it.
func relay() {
	publisher := newPublisher()
	var watch stopwatch
	var passedOn sync.WaitGroup
	passedOn.Add(messages)
	begun := make(chan struct{})
	go func() {
		<-begun
		passedOn.Wait()
		watch.report(nil)
	}()
	count := 0
	for delivery := range deliveries() {
		if count++; count == 1 {
			watch = start()
			close(begun)
		}
		delivery := delivery
		confirmation := publisher.publish(target, delivery.Body)
		go func() {
			mustBeConfirmed(confirmation)
			check(delivery.Ack(false))
			passedOn.Done()
		}()
	}
}

func publish() {
	publisher := newPublisher()
	watch := start()
	var late []time.Duration
	if rate > 0 {
		late = openLoop(publisher, watch.startedAt)
	} else {
		closedLoop(publisher)
	}
	watch.report(late)
}

func closedLoop(publisher publisher) {
	body := jsonBody()
	unconfirmed := make(chan *amqp.DeferredConfirmation, window)
	for i := 0; i < messages; i++ {
		if len(unconfirmed) == window {
			mustBeConfirmed(<-unconfirmed)
		}
		unconfirmed <- publisher.publish(queue, body)
	}
	close(unconfirmed)
	for confirmation := range unconfirmed {
		mustBeConfirmed(confirmation)
	}
}

func openLoop(publisher publisher, startedAt time.Time) []time.Duration {
	body := jsonBody()
	late := make([]time.Duration, messages)
	var confirmed sync.WaitGroup
	confirmed.Add(messages)
	for i := range late {
		i, due := i, startedAt.Add(time.Duration(float64(i)/rate*float64(time.Second)))
		time.Sleep(time.Until(due))
		confirmation := publisher.publish(queue, body)
		go func() {
			mustBeConfirmed(confirmation)
			late[i] = time.Since(due)
			confirmed.Done()
		}()
	}
	confirmed.Wait()
	return late
}

type publisher struct{ *amqp.Channel }

func newPublisher() publisher {
	channel := channel()
	check(channel.Confirm(false))
	returns := channel.NotifyReturn(make(chan amqp.Return, 1))
	go func() {
		for returned := range returns {
			log.Fatalf("returned: %d %s", returned.ReplyCode, returned.ReplyText)
		}
	}()
	return publisher{channel}
}

func (p publisher) publish(routingKey string, body []byte) *amqp.DeferredConfirmation {
	message := amqp.Publishing{ContentType: "application/json", DeliveryMode: amqp.Persistent, Body: body}
	confirmation, err := p.PublishWithDeferredConfirmWithContext(
		context.Background(), "", routingKey, true, false, message)
	check(err)
	return confirmation
}

func mustBeConfirmed(confirmation *amqp.DeferredConfirmation) {
	if !confirmation.Wait() {
		log.Fatal("a message was not confirmed")
	}
}
