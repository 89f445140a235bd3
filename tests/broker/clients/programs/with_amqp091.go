// What a program does with amqp091-go: `go run with_amqp091.go URL` prints one line for each thing that went as it should.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const count = 100

var background = context.Background()

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	connection := must(amqp.Dial(os.Args[1]))
	channel := must(connection.Channel())
	queue := declare(channel)
	confirms(channel, queue)
	consume(channel, queue)
	get(channel, queue)
	returned(channel)
	cancel(channel, queue)
	transaction(must(connection.Channel()), queue)
	deadLetter(channel, queue)
	refused(connection)
	check(connection.Close())
	fmt.Println("closed")
}

func declare(channel *amqp.Channel) string {
	queue := must(channel.QueueDeclare("", false, false, true, false, nil)).Name
	check(channel.ExchangeDeclare("orders-of-"+queue, "topic", false, true, false, false, nil))
	check(channel.QueueBind(queue, "orders.#", "orders-of-"+queue, false, nil))
	again := must(channel.QueueInspect(queue))
	fmt.Printf("declared: %d messages, %d consumers\n", again.Messages, again.Consumers)
	return queue
}

func confirms(channel *amqp.Channel, queue string) {
	check(channel.Confirm(false))
	var waiting []*amqp.DeferredConfirmation
	for number := 0; number < count; number++ {
		message := amqp.Publishing{
			DeliveryMode: amqp.Persistent,
			MessageId:    fmt.Sprint(number),
			Headers:      amqp.Table{"n": int32(number)},
			Body:         []byte(fmt.Sprint(number)),
		}
		waiting = append(waiting, must(channel.PublishWithDeferredConfirmWithContext(
			background, "orders-of-"+queue, "orders.new", true, false, message)))
	}
	confirmed := 0
	for _, each := range waiting {
		if each.Wait() {
			confirmed++
		}
	}
	fmt.Printf("confirmed: %d\n", confirmed)
}

func consume(channel *amqp.Channel, queue string) {
	check(channel.Qos(10, 0, false))
	deliveries := must(channel.Consume(queue, "mine", false, false, false, false, nil))
	seen, redelivered := map[string]bool{}, 0
	for delivery := range deliveries {
		body := string(delivery.Body)
		if body == "5" && !delivery.Redelivered {
			check(delivery.Nack(false, true))
			continue
		}
		if delivery.Redelivered {
			redelivered++
		}
		if delivery.MessageId != body || fmt.Sprint(delivery.Headers["n"]) != body {
			panic("the properties are those of another message")
		}
		seen[body] = true
		check(delivery.Ack(false))
		if len(seen) == count {
			break
		}
	}
	check(channel.Cancel("mine", false))
	fmt.Printf("consumed: %d, %d redelivered\n", len(seen), redelivered)
}

func publish(channel *amqp.Channel, key string, mandatory bool, body []byte) {
	confirmation := must(channel.PublishWithDeferredConfirmWithContext(
		background, "", key, mandatory, false, amqp.Publishing{Body: body}))
	if !confirmation.Wait() {
		panic("not confirmed")
	}
}

func get(channel *amqp.Channel, queue string) {
	publish(channel, queue, false, bytes.Repeat([]byte("x"), 300_000))
	delivery, _, err := channel.Get(queue, false)
	check(err)
	check(delivery.Ack(false))
	_, found, err := channel.Get(queue, false)
	check(err)
	then := "nothing"
	if found {
		then = "more"
	}
	fmt.Printf("got: %d bytes, then %s\n", len(delivery.Body), then)
}

func returned(channel *amqp.Channel) {
	returns := channel.NotifyReturn(make(chan amqp.Return, 1))
	publish(channel, "nobody-has-this-queue", true, []byte("back"))
	back := <-returns
	fmt.Printf("returned: %d %s\n", back.ReplyCode, back.ReplyText)
}

func cancel(channel *amqp.Channel, queue string) {
	deliveries := must(channel.Consume(queue, "soon gone", true, false, false, false, nil))
	check(channel.Cancel("soon gone", false))
	publish(channel, queue, false, []byte("after"))
	seen := 0
	for range deliveries {
		seen++
	}
	ready := must(channel.QueuePurge(queue, false))
	fmt.Printf("cancelled: %d delivered, %d ready\n", seen, ready)
}

func transaction(channel *amqp.Channel, queue string) {
	check(channel.Tx())
	var ready []int
	for _, end := range []func() error{channel.TxRollback, channel.TxCommit} {
		for _, body := range []string{"one", "two"} {
			check(channel.PublishWithContext(background, "", queue, false, false, amqp.Publishing{Body: []byte(body)}))
		}
		ready = append(ready, must(channel.QueueInspect(queue)).Messages)
		check(end())
		ready = append(ready, must(channel.QueueInspect(queue)).Messages)
	}
	must(channel.QueuePurge(queue, false))
	check(channel.Close())
	fmt.Printf("transactions: [%d, %d, %d, %d]\n", ready[0], ready[1], ready[2], ready[3])
}

func deadLetter(channel *amqp.Channel, queue string) {
	arguments := amqp.Table{
		"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue, "x-message-ttl": int32(60_000),
	}
	source := must(channel.QueueDeclare("", false, false, true, false, arguments)).Name
	publish(channel, source, false, []byte("bad"))
	delivery, _, err := channel.Get(source, false)
	check(err)
	check(delivery.Reject(false))
	letter, found, err := channel.Get(queue, true)
	for ; err == nil && !found; letter, found, err = channel.Get(queue, true) {
		time.Sleep(10 * time.Millisecond)
	}
	check(err)
	death := letter.Headers["x-death"].([]interface{})[0].(amqp.Table)
	from := "?"
	if death["queue"] == source {
		from = "source"
	}
	fmt.Printf("dead letter: %s %d times from %s\n", death["reason"], death["count"], from)
}

func refused(connection *amqp.Connection) {
	_, err := must(connection.Channel()).QueueDeclarePassive("nobody-has-this-queue", false, false, false, false, nil)
	check(must(connection.Channel()).Close())
	refusal := err.(*amqp.Error)
	fmt.Printf("refused: %d %s\n", refusal.Code, refusal.Reason)
}
