import openai

# Set up the client with your API key and base URL
client = openai.OpenAI(api_key="sk-your-api-key", base_url="https://axione.vercel.app/api/v1")
# Create a chat completion
response = client.chat.completions.create(
    model="google/gemini-2.5-flash-lite", messages=[{"role": "user", "content": "Hello!"}]
)
print(response.choices[0].message.content)
