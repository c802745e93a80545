# A queue, its dead-letter queue, and a function that works it. Read README.md first.

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.40"
    }
  }
}

variable "region" {
  type    = string
  default = "eu-west-1"
}

locals {
  function_timeout = 60
  batching_window  = 2
  # The service gives up after so many receives. queuekit gives up after the handler's max_attempts, 5, and must
  # have the first word: throttled and timed-out invocations count as receives too, so leave them ten.
  max_receives = 16
}

provider "aws" {
  region = var.region
}

resource "aws_sqs_queue" "orders_dead" {
  name                      = "orders-dead"
  message_retention_seconds = 1209600
}

resource "aws_sqs_queue" "orders" {
  name = "orders"
  # AWS advises six times the function's timeout, and the batching window on top: a batch that was throttled is
  # tried again within it.
  visibility_timeout_seconds = 6 * local.function_timeout + local.batching_window
  message_retention_seconds  = 345600
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.orders_dead.arn
    maxReceiveCount     = local.max_receives
  })
}

resource "aws_sqs_queue_redrive_allow_policy" "orders_dead" {
  queue_url = aws_sqs_queue.orders_dead.id
  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [aws_sqs_queue.orders.arn]
  })
}

resource "aws_iam_role" "shop" {
  name = "shop"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy" "shop" {
  name = "shop"
  role = aws_iam_role.shop.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        # Lambda itself, in the function's name.
        Effect   = "Allow"
        Action   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
        Resource = aws_sqs_queue.orders.arn
      },
      {
        # When a message comes again. Without it, it comes when the visibility timeout ends.
        Effect   = "Allow"
        Action   = ["sqs:GetQueueUrl", "sqs:ChangeMessageVisibility"]
        Resource = aws_sqs_queue.orders.arn
      },
      {
        # Dead letters with their reason.
        Effect   = "Allow"
        Action   = ["sqs:GetQueueUrl", "sqs:SendMessage"]
        Resource = aws_sqs_queue.orders_dead.arn
      },
      {
        Effect   = "Allow"
        Action   = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = "arn:aws:logs:*:*:*"
      },
    ]
  })
}

resource "aws_lambda_function" "shop" {
  function_name    = "shop"
  role             = aws_iam_role.shop.arn
  runtime          = "python3.13"
  handler          = "shop.handler"
  filename         = "build.zip"
  source_code_hash = filebase64sha256("build.zip")
  timeout          = local.function_timeout
  memory_size      = 256

  environment {
    variables = {
      QUEUEKIT_URL = "sqs://${var.region}"
      ORDERS_DEAD  = "sqs://${var.region}/${aws_sqs_queue.orders_dead.name}"
    }
  }
}

resource "aws_lambda_event_source_mapping" "orders" {
  event_source_arn                   = aws_sqs_queue.orders.arn
  function_name                      = aws_lambda_function.shop.arn
  function_response_types            = ["ReportBatchItemFailures"]
  batch_size                         = 100
  maximum_batching_window_in_seconds = local.batching_window

  scaling_config {
    maximum_concurrency = 10
  }
}
